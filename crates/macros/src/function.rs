//! The function: what is refused, its parameters, what it returns.

use syn::{
    Attribute, Error, Expr, FnArg, GenericArgument, Ident, ItemFn, Pat, PathArguments, Result, ReturnType, Type, ext::IdentExt,
    parse_quote, spanned::Spanned,
};

/// A function that can be a task.
pub(crate) struct Function {
    /// Without `#[default]`, `#[args]` and `#[kwargs]`.
    pub(crate) item: ItemFn,
    pub(crate) context: Option<ContextAs>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) returns: Returns,
}

/// Form in which a function takes its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContextAs {
    Value,
    Reference,
}

pub(crate) struct Parameter {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) takes: Takes,
    /// It stands behind `#[args]`: callers give it by name only.
    pub(crate) by_name: bool,
}

/// The arguments that a parameter takes.
pub(crate) enum Takes {
    One {
        default: Option<Box<Expr>>,
        /// Left out it is `None`: then a call with `None` may as well leave it out.
        none: bool,
    },
    /// All further ones by place.
    Args,
    /// All further ones by name.
    Kwargs,
}

/// Return type of a function.
pub(crate) struct Returns {
    /// Type of the result; of a `Result`, its `Ok` type.
    pub(crate) ty: Type,
    pub(crate) fallible: bool,
    /// Type as it was written, of which the above is a part that has to be asked of the compiler:
    /// a `Result` under another name.
    pub(crate) alias: Option<Type>,
}

impl Parameter {
    /// Its name in calls.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }

    /// Returns whether it takes one argument, which a call may leave out.
    fn is_optional(&self) -> bool {
        matches!(&self.takes, Takes::One { default: Some(_), .. })
    }

    /// Returns whether it takes one argument, by place.
    pub(crate) fn has_place(&self) -> bool {
        !self.by_name && matches!(&self.takes, Takes::One { .. })
    }

    /// Returns whether calls from Rust may give whatever becomes a `String`.
    pub(crate) fn is_string(&self) -> bool {
        matches!(&self.ty, Type::Path(path) if path.qself.is_none() && path.path.is_ident("String"))
    }
}

pub(crate) fn read(mut item: ItemFn, fallible: bool) -> Result<Function> {
    // What a message cannot call is refused here, where the compiler would say it less plainly.
    let signature = &item.sig;
    if !signature.generics.params.is_empty() {
        let message =
            "a task is one function with one name: it cannot be generic; write a task for each type, or take a `longshore::Value`";
        return Err(Error::new_spanned(&signature.generics, message));
    }
    if let syn::Safety::Unsafe(unsafety) = &signature.safety {
        return Err(Error::new_spanned(unsafety, "a task is called by whoever can send a message: it cannot be unsafe"));
    }
    if let Some(constness) = &signature.constness {
        return Err(Error::new_spanned(constness, "a task cannot be const: remove the word"));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a task is called from Rust alone: remove its ABI"));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(variadic, "for any number of arguments write `#[args] rest: Vec<T>`"));
    }
    let returns = returns(&signature.output, fallible)?;
    let mut context = None;
    let mut parameters: Vec<Parameter> = Vec::new();
    for (place, argument) in item.sig.inputs.iter_mut().enumerate() {
        let FnArg::Typed(argument) = argument else {
            return Err(Error::new_spanned(argument, "a task has no `self`: put `#[task]` on a free function"));
        };
        if let Some(how) = context_as(&argument.ty) {
            if place > 0 {
                return Err(Error::new_spanned(&argument.ty, "the context is the first parameter"));
            }
            context = Some(how);
            continue;
        }
        // As in Python: what may be left out stands behind what may not.
        let mut parameter = parameter(&mut argument.attrs, &argument.pat, &argument.ty)?;
        let collects = parameters.iter().map(|before| &before.takes).find(|takes| !matches!(takes, Takes::One { .. }));
        match (collects, parameters.last().map(|before| &before.takes), &parameter.takes) {
            (_, Some(Takes::Kwargs), _) => {
                return Err(Error::new_spanned(&argument.pat, "`#[kwargs]` takes all that is left: it is the last parameter"));
            }
            (Some(_), _, Takes::Args) => return Err(Error::new_spanned(&argument.pat, "one `#[args]` takes all that is left")),
            (Some(_), _, _) => parameter.by_name = true,
            (None, ..) => {}
        }
        if let Some(before) = parameters.last().filter(|_| parameter.has_place())
            && before.is_optional()
            && !parameter.is_optional()
        {
            let message = format!(
                "`{}` is required, but `{}` before it is not: calls by place could not leave that out",
                parameter.name(),
                before.name()
            );
            return Err(Error::new_spanned(&argument.pat, message));
        }
        parameters.push(parameter);
    }
    Ok(Function { item, context, parameters, returns })
}

fn parameter(attributes: &mut Vec<Attribute>, pattern: &Pat, ty: &Type) -> Result<Parameter> {
    let ident = match pattern {
        Pat::Ident(name) if name.subpat.is_none() && name.by_ref.is_none() => name.ident.clone(),
        other => return Err(Error::new_spanned(other, "callers give arguments by name: a parameter of a task is a plain name")),
    };
    match ty {
        Type::Reference(reference) => {
            let owned = match &*reference.elem {
                Type::Path(path) if path.path.is_ident("str") => "`String`",
                Type::Slice(_) => "a `Vec`",
                _ => "the type without `&`",
            };
            return Err(Error::new_spanned(ty, format!("a task owns its arguments, which come out of a message: take {owned}")));
        }
        Type::ImplTrait(_) => return Err(Error::new_spanned(ty, "an argument comes out of a message: its type must be named")),
        _ => {}
    }
    let mut taken = |word: &str| -> Vec<Attribute> {
        let (ours, others) = std::mem::take(attributes).into_iter().partition(|attribute| attribute.path().is_ident(word));
        *attributes = others;
        ours
    };
    let (defaults, args, kwargs) = (taken("default"), taken("args"), taken("kwargs"));
    let collects = args.iter().chain(&kwargs).collect::<Vec<_>>();
    if let Some(again) = collects.get(1).copied().or(defaults.first()).filter(|_| !collects.is_empty()) {
        let word = if args.is_empty() { "kwargs" } else { "args" };
        return Err(Error::new_spanned(again, format!("`#[{word}]` is enough: it is empty where nothing is given")));
    }
    if let Some(attribute) = collects.first() {
        attribute.meta.require_path_only()?;
        let takes = if args.is_empty() { Takes::Kwargs } else { Takes::Args };
        return Ok(Parameter { ident, ty: ty.clone(), takes, by_name: false });
    }
    let mut default = match defaults.as_slice() {
        [] => None,
        [one] => Some(match &one.meta {
            syn::Meta::Path(path) => syn::parse_quote_spanned!(path.span()=> ::core::default::Default::default()),
            syn::Meta::List(list) => list.parse_args()?,
            syn::Meta::NameValue(pair) => pair.value.clone(),
        }),
        [_, again, ..] => return Err(Error::new_spanned(again, "one default is enough")),
    };
    let is_option = last_word(ty).is_some_and(|word| word == "Option");
    let none = is_option && defaults.iter().all(|attribute| matches!(attribute.meta, syn::Meta::Path(_)));
    if default.is_none() && is_option {
        default = Some(parse_quote!(::core::option::Option::None));
    }
    Ok(Parameter { ident, ty: ty.clone(), takes: Takes::One { default: default.map(Box::new), none }, by_name: false })
}

fn context_as(ty: &Type) -> Option<ContextAs> {
    match ty {
        Type::Reference(reference) if reference.mutability.is_none() => context_as(&reference.elem).map(|_| ContextAs::Reference),
        _ => (last_word(ty)? == "TaskContext").then_some(ContextAs::Value),
    }
}

fn returns(output: &ReturnType, fallible: bool) -> Result<Returns> {
    let ReturnType::Type(_, ty) = output else { return Ok(Returns { ty: parse_quote!(()), fallible: false, alias: None }) };
    if matches!(**ty, Type::ImplTrait(_)) {
        return Err(Error::new_spanned(ty, "what a task returns goes into a message: its type must be named"));
    }
    if matches!(**ty, Type::Reference(_)) {
        return Err(Error::new_spanned(ty, "what a task returns goes into a message: return an owned value"));
    }
    if matches!(**ty, Type::Never(_)) {
        return Err(Error::new_spanned(ty, "a task must end"));
    }
    let is_result = last_word(ty).is_some_and(|word| word == "Result");
    if !is_result && !fallible {
        return Ok(Returns { ty: (**ty).clone(), fallible: false, alias: None });
    }
    // `Result<T, E>` says what `T` is; of another name, or of one without arguments, the compiler
    // knows.
    if let Type::Path(path) = &**ty
        && is_result
        && let Some(PathArguments::AngleBracketed(arguments)) = path.path.segments.last().map(|segment| &segment.arguments)
        && let Some(GenericArgument::Type(ok)) = arguments.args.first()
    {
        return Ok(Returns { ty: ok.clone(), fallible: true, alias: None });
    }
    Ok(Returns { ty: (**ty).clone(), fallible: true, alias: Some((**ty).clone()) })
}

/// The last word of a type's path.
fn last_word(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last().map(|segment| &segment.ident),
        Type::Group(group) => last_word(&group.elem),
        Type::Paren(paren) => last_word(&paren.elem),
        _ => None,
    }
}
